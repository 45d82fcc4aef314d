"""proxy-cache: answers are kept, and given again without asking the upstream.

plugin       the plugin
freshness    what requests and answers say of caching
store        answers in a zone, with their variants
entry        how they are written
zone         a directory that all workers share
zones        those of the settings
"""
