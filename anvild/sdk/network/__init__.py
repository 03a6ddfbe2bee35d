"""The network of devices that have none of their own: a filter that decides by a policy, and a proxy in front of it.

A driver whose devices have a guest agent makes an :class:`~anvild.sdk.network.outlet.Outlet` of
``DeviceRequest.network``, serves it on the connection with the agent, and adds
:func:`~anvild.sdk.network.outlet.proxy_environment` to the environment of the device's programs.
:mod:`~anvild.sdk.network.rules` is the policy and :mod:`~anvild.sdk.network.addresses` what addresses are, for whoever
needs them alone.
"""

from __future__ import annotations
