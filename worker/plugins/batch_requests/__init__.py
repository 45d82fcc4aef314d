"""batch-requests: several requests in one.

plugin    what is asked and answered
inner     requests that the gateway makes of itself
"""
