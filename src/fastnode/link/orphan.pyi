from fastnode.errors import FastnodeError
from fastnode.link.protocol import LinkProtocol

def orphan(protocol: LinkProtocol, error: FastnodeError) -> int: ...
