"""Which hosts are this machine, and how a URL names a host."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host name or an address, with or without the brackets of IPv6, means this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_in_url(host: str) -> str:
    """A host name or an address as a URL has it: with brackets around an address of IPv6."""
    return f"[{host}]" if ":" in host else host
