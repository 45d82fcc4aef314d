"""From a request's method, host and path to its route."""
