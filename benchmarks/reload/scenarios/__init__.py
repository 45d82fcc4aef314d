"""One module for each thing that is done to a gateway under load."""
