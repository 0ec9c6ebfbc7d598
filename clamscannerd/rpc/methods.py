"""The table of methods: name, parameters, who may, handler. [daemon]

This is where bytes have become one authorised call, and its meaning begins (service/). Parameters stand in the
contract's order, which is their order by position.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from clamscannerd import __version__
from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.table import Call, Method, Methods, table
from clamscannerd.service import clamscanner, scan
from clamscannerd.service.context import Context


class NoParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For calls that take none."""


class StartScan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scan_type: str


class DisinfectFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    actions: dict[str, str]
    others: str | None = None


class CheckDisinfectionStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    last_id: Annotated[int, Meta(ge=1)] | None = None


def build(context: Context) -> Methods:
    """The table over one daemon's context."""

    async def get_scan_paths(call: Call, _: NoParams) -> object:
        return await clamscanner.get_scan_paths(context, await context.entry(call.peer.uid, call.user))

    async def start_scan(call: Call, params: StartScan) -> object:
        entry = await context.entry(call.peer.uid, call.user)
        return await clamscanner.start_scan(context, entry, call.peer.uid, params.scan_type)

    async def get_scan_status(call: Call, _: NoParams) -> object:
        return await clamscanner.get_scan_status(context, await context.entry(call.peer.uid, call.user))

    async def list_infected_files(call: Call, _: NoParams) -> object:
        return await clamscanner.list_infected_files(context, await context.entry(call.peer.uid, call.user))

    async def disinfect_files(call: Call, params: DisinfectFiles) -> object:
        entry = await context.entry(call.peer.uid, call.user)
        return await clamscanner.disinfect_files(context, entry, call.peer.uid, params.actions, params.others)

    async def check_disinfection_status(call: Call, params: CheckDisinfectionStatus) -> object:
        entry = await context.entry(call.peer.uid, call.user)
        return await clamscanner.check_disinfection_status(context, entry, params.last_id or 0)

    async def cancel_scan(call: Call, _: NoParams) -> object:
        return await scan.cancel(context, await context.entry(call.peer.uid, call.user))

    async def version(_call: Call, _: NoParams) -> object:
        return {"version": __version__}

    own = Rule.SELF
    return table(
        Method(name="ClamScanner.get_scan_paths", params=NoParams, rule=own, handler=get_scan_paths),
        Method(name="ClamScanner.start_scan", params=StartScan, rule=own, handler=start_scan),
        Method(name="ClamScanner.get_scan_status", params=NoParams, rule=own, handler=get_scan_status),
        Method(name="ClamScanner.list_infected_files", params=NoParams, rule=own, handler=list_infected_files),
        Method(name="ClamScanner.disinfect_files", params=DisinfectFiles, rule=own, handler=disinfect_files),
        Method(
            name="ClamScanner.check_disinfection_status",
            params=CheckDisinfectionStatus,
            rule=own,
            handler=check_disinfection_status,
        ),
        Method(name="Scan.cancel", params=NoParams, rule=own, handler=cancel_scan),
        Method(name="Daemon.version", params=NoParams, rule=Rule.ANYONE, handler=version),
    )
