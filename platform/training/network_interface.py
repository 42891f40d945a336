"""Ray Train's process group on the network that the nodes of a cluster share."""

import os
import socket
from dataclasses import dataclass
from typing import Any

import psutil
from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass
class ClusterTorchConfig(TorchConfig):
    """A process group whose workers listen where Ray does.

    Gloo would listen at the address of the host's name, which on Debian and others is a loopback address that no other node reaches.
    """

    @property
    def backend_cls(self) -> type:
        class Backend(super().backend_cls):  # Ray exports its backend only here
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                worker_group.execute(_choose_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def _choose_interface() -> None:
    """In a worker: what the user has not chosen is the interface with the address that Ray uses."""
    interface = interface_of(get_node_ip_address())
    for name in _VARIABLES if interface else ():
        os.environ.setdefault(name, interface or "")


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an address, if there is one."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.family in (socket.AF_INET, socket.AF_INET6) and each.address == address for each in addresses):
            return name
    return None
