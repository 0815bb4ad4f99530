"""`desired/nodes/<node>`: a hypervisor that runs an agent, and how the others reach it."""

from typing import Annotated

from holdfast.coordinator.model.record import Record
from pydantic import Field, StringConstraints

Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:-]*$", max_length=253)]
Port = Annotated[int, Field(ge=1, le=65535)]

TRANSFER_PORT = 7420
API_PORT = 7421


class Node(Record):
    """A node's addresses. `maintenance` keeps it from being replicated to."""

    address: Address
    """A host name or an IP address, which the other nodes can reach."""
    transfer_port: Port = TRANSFER_PORT
    """TCP port on which its agent receives."""
    api_port: Port = API_PORT
    """TCP port of its agent's HTTP API."""
    maintenance: bool = False
    """Whether it is kept from being replicated to."""
