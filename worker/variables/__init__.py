"""Variables: what expressions, templates, hash keys and logs can ask about an exchange, by name (routing.md section 7).

A name is looked up once, when configuration changes, and becomes a function of the exchange (``accessor``). What is
expensive to find out is kept in the exchange's ``Memo``, or with the request's head where it depends on the head alone.

    accessors   from a name to a function
    request     of the request and the client
    response    of the answer, the peer and the route
    body        fields of the request's body
    graphql     of a GraphQL document
    template    texts with variables in them
"""

from worker.variables.accessors import accessor
from worker.variables.memo import Memo, assign
from worker.variables.template import Template
from worker.variables.values import Accessor, Value

__all__ = ["Accessor", "Memo", "Template", "Value", "accessor", "assign"]
