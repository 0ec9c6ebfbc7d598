"""The table of methods: name, parameters, who may, handler. [daemon]

This is where bytes have become one authorised call, and its meaning begins (service/). Parameters stand in the
contract's order, which is their order by position.
"""

from typing import Annotated, Literal

import msgspec
import trio
from msgspec import Meta

from clamscannerd import __version__
from clamscannerd.model import Account, Depth, IgnoreKind
from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.discover import document
from clamscannerd.rpc.table import Call, Method, Methods, table
from clamscannerd.service import clamscanner, daemon, explain, history, ignore, quarantine, scan, scan_start, task
from clamscannerd.service import metrics as counted
from clamscannerd.service.context import Context
from clamscannerd.service.listening import KINDS, Kind
from clamscannerd.service.together import Listeners


class NoParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For calls that take none."""


class StartScan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scan_type: str


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scan_type: str | None = None
    paths: list[str] | None = None
    recent_s: Annotated[float, Meta(gt=0, le=36_500 * 86_400)] | None = None
    scheduled: bool = False
    depth: Literal["full", "rapid", "nocache"] = "full"


class DisinfectFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    actions: dict[str, str]
    others: str | None = None


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kinds: list[Kind] | None = None


class CheckDisinfectionStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    last_id: Annotated[int, Meta(ge=0, le=2**62)] | None = None


Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Meta(ge=1, le=1_000)]
Offset = Annotated[int, Meta(ge=0, le=2**62)]


class ListItems(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: str | None = None
    limit: Limit = 100
    offset: Offset = 0


class ShowItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Id


class RestoreItems(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ids: list[Id]
    to: str | None = None
    force: bool = False


class DeleteItems(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ids: list[Id]


class ListScans(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Limit = 100
    offset: Offset = 0


class GetScan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scan_id: Id
    limit: Limit = 1_000
    offset: Offset = 0


class ExplainPath(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Annotated[str, Meta(max_length=32_768)]
    directory: bool = False


class ListAccounts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Limit = 100
    offset: Offset = 0


class ListTasks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Limit = 100
    offset: Offset = 0


class GetTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task_id: str
    last_id: Annotated[int, Meta(ge=0, le=2**62)] | None = None


class UndoTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task_id: str
    force: bool = False


class AddIgnore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Literal["path", "signature", "sha256"]
    value: Annotated[str, Meta(max_length=16_384)]
    note: Annotated[str, Meta(max_length=200)] = ""
    expires_at: float | None = None


class ListIgnores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Limit = 1_000
    offset: Offset = 0


class RemoveIgnore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Id


def build(context: Context) -> Methods:
    """The table over one daemon's context."""

    listeners = Listeners(context)

    async def subscribe(call: Call, params: Subscribe) -> object:
        account = (await context.entry(call.peer.uid, call.user)).account
        kinds = frozenset(params.kinds if params.kinds is not None else KINDS)
        return listeners.begin(account, kinds, call)

    described: list[msgspec.Raw] = []  # made when somebody asks, and kept: it is the same for as long as we run

    async def discover(_call: Call, _: NoParams) -> object:
        if not described:  # 16 ms of work
            described.append(await trio.to_thread.run_sync(lambda: msgspec.Raw(msgspec.json.encode(document(methods)))))
        return described[0]

    own = Rule.SELF
    methods = table(
        *_six(context),
        *_scans(context),
        *_history(context),
        *_ignore(context),
        *_vault(context),
        *_tasks(context),
        Method(name="Events.subscribe", params=Subscribe, rule=own, handler=subscribe),
        *_daemon(context),
        Method(name="rpc.discover", params=NoParams, rule=Rule.ANYONE, handler=discover),
    )
    return methods


def _six(context: Context) -> list[Method]:
    """ClamScanner.*"""

    async def get_scan_paths(call: Call, _: NoParams) -> object:
        return await clamscanner.get_scan_paths(context, await context.entry(call.peer.uid, call.user))

    async def start_scan(call: Call, params: StartScan) -> object:
        entry = await context.entry(call.peer.uid, call.user)
        return await clamscanner.start_scan(context, entry, call.peer.uid, params.scan_type)

    async def get_scan_status(call: Call, _: NoParams) -> object:
        return await clamscanner.get_scan_status(context, await context.remembered(call.peer.uid, call.user))

    async def list_infected_files(call: Call, _: NoParams) -> object:
        return await clamscanner.list_infected_files(context, await context.remembered(call.peer.uid, call.user))

    async def disinfect_files(call: Call, params: DisinfectFiles) -> object:
        entry = await context.entry(call.peer.uid, call.user)
        return await clamscanner.disinfect_files(context, entry, call.peer.uid, params.actions, params.others)

    async def check_disinfection_status(call: Call, params: CheckDisinfectionStatus) -> object:
        entry = await context.remembered(call.peer.uid, call.user)
        return await clamscanner.check_disinfection_status(context, entry, params.last_id or 0)

    own = Rule.SELF
    return [
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
    ]


def _scans(context: Context) -> list[Method]:
    """Scan.* that act"""

    async def start(call: Call, params: Start) -> object:
        entry = await context.entry(call.peer.uid, call.user)
        wanted = params.scan_type, params.paths, params.recent_s
        how = scan_start.How(scheduled=params.scheduled, depth=Depth(params.depth))
        return await scan_start.start(context, entry, call.peer.uid, *wanted, how)

    async def cancel(call: Call, _: NoParams) -> object:
        return await scan.cancel(context, await context.entry(call.peer.uid, call.user))

    async def pause(call: Call, _: NoParams) -> object:
        return await scan.pause(context, await context.entry(call.peer.uid, call.user))

    async def resume(call: Call, _: NoParams) -> object:
        return await scan.resume(context, await context.entry(call.peer.uid, call.user))

    own = Rule.SELF
    return [
        Method(name="Scan.start", params=Start, rule=own, handler=start),
        Method(name="Scan.cancel", params=NoParams, rule=own, handler=cancel),
        Method(name="Scan.pause", params=NoParams, rule=own, handler=pause),
        Method(name="Scan.resume", params=NoParams, rule=own, handler=resume),
    ]


def _history(context: Context) -> list[Method]:
    """Scan.list, Scan.get, Scan.explain, Account.*"""

    async def remembered(call: Call) -> Account:
        return (await context.remembered(call.peer.uid, call.user)).account

    async def list_scans(call: Call, params: ListScans) -> object:
        return await history.list_scans(context, await remembered(call), params.limit, params.offset)

    async def get_scan(call: Call, params: GetScan) -> object:
        return await history.get_scan(context, await remembered(call), params.scan_id, params.limit, params.offset)

    async def explain_path(call: Call, params: ExplainPath) -> object:
        entry = await context.remembered(call.peer.uid, call.user)
        return await explain.explain(context, entry, params.path, directory=params.directory)

    async def list_accounts(_call: Call, params: ListAccounts) -> object:
        return await history.list_accounts(context, params.limit, params.offset)

    own = Rule.SELF
    return [
        Method(name="Scan.list", params=ListScans, rule=own, handler=list_scans),
        Method(name="Scan.get", params=GetScan, rule=own, handler=get_scan),
        Method(name="Scan.explain", params=ExplainPath, rule=own, handler=explain_path),
        Method(name="Account.list", params=ListAccounts, rule=Rule.ADMIN, handler=list_accounts),
    ]


def _ignore(context: Context) -> list[Method]:
    """Ignore.*"""

    async def add(call: Call, params: AddIgnore) -> object:
        account = (await context.entry(call.peer.uid, call.user)).account
        return await ignore.add(
            context, account, call.peer.uid, IgnoreKind(params.kind), params.value, params.note, params.expires_at
        )

    async def list_entries(call: Call, params: ListIgnores) -> object:
        account = (await context.remembered(call.peer.uid, call.user)).account
        return await ignore.list_entries(context, account, params.limit, params.offset)

    async def remove(call: Call, params: RemoveIgnore) -> object:
        account = (await context.remembered(call.peer.uid, call.user)).account
        return await ignore.remove(context, account, params.id)

    own = Rule.SELF
    return [
        Method(name="Ignore.add", params=AddIgnore, rule=own, handler=add),
        Method(name="Ignore.list", params=ListIgnores, rule=own, handler=list_entries),
        Method(name="Ignore.remove", params=RemoveIgnore, rule=own, handler=remove),
    ]


def _vault(context: Context) -> list[Method]:
    """Quarantine.*"""

    async def account_of(call: Call) -> Account:
        return (await context.entry(call.peer.uid, call.user)).account

    async def remembered(call: Call) -> Account:
        return (await context.remembered(call.peer.uid, call.user)).account

    async def list_items(call: Call, params: ListItems) -> object:
        return await quarantine.list_items(context, await remembered(call), params.state, params.limit, params.offset)

    async def show(call: Call, params: ShowItem) -> object:
        return await quarantine.show_item(context, await remembered(call), params.id)

    async def restore(call: Call, params: RestoreItems) -> object:
        account = await account_of(call)
        return await quarantine.restore(context, account, call.peer.uid, params.ids, params.to, force=params.force)

    async def delete(call: Call, params: DeleteItems) -> object:
        return await quarantine.delete(context, await account_of(call), params.ids)

    async def verify(call: Call, _: NoParams) -> object:
        whole = call.is_admin and call.user is None
        return await quarantine.verify(context, None if whole else await account_of(call))

    own = Rule.SELF
    return [
        Method(name="Quarantine.list", params=ListItems, rule=own, handler=list_items),
        Method(name="Quarantine.show", params=ShowItem, rule=own, handler=show),
        Method(name="Quarantine.restore", params=RestoreItems, rule=own, handler=restore),
        Method(name="Quarantine.delete", params=DeleteItems, rule=own, handler=delete),
        Method(name="Quarantine.verify", params=NoParams, rule=own, handler=verify),
    ]


def _tasks(context: Context) -> list[Method]:
    """Task.*"""

    async def account_of(call: Call) -> Account:
        return (await context.entry(call.peer.uid, call.user)).account

    async def remembered(call: Call) -> Account:
        return (await context.remembered(call.peer.uid, call.user)).account

    async def list_tasks(call: Call, params: ListTasks) -> object:
        return await task.list_tasks(context, await remembered(call), params.limit, params.offset)

    async def get(call: Call, params: GetTask) -> object:
        return await task.get_task(context, await remembered(call), params.task_id, params.last_id or 0)

    async def undo(call: Call, params: UndoTask) -> object:
        account = await account_of(call)
        return await task.undo(context, account, call.peer.uid, params.task_id, force=params.force)

    own = Rule.SELF
    return [
        Method(name="Task.list", params=ListTasks, rule=own, handler=list_tasks),
        Method(name="Task.get", params=GetTask, rule=own, handler=get),
        Method(name="Task.undo", params=UndoTask, rule=own, handler=undo),
    ]


def _daemon(context: Context) -> list[Method]:
    """Daemon.*"""

    async def reload(_call: Call, _: NoParams) -> object:
        return await daemon.reload(context)

    async def health(call: Call, _: NoParams) -> object:
        everybody = call.is_admin and call.user is None
        return await daemon.health(context, call.peer.uid, call.user, everybody=everybody)

    async def metrics(_call: Call, _: NoParams) -> object:
        return await counted.metrics(context)

    async def self_test(call: Call, _: NoParams) -> object:
        everybody = call.is_admin and call.user is None
        return await daemon.self_test(context, call.peer.uid, call.user, everybody=everybody)

    async def verify(_call: Call, _: NoParams) -> object:
        return await daemon.verify(context)

    async def version(_call: Call, _: NoParams) -> object:
        return {"version": __version__}

    return [
        Method(name="Daemon.health", params=NoParams, rule=Rule.SELF, handler=health),
        Method(name="Daemon.metrics", params=NoParams, rule=Rule.ADMIN, handler=metrics),
        Method(name="Daemon.reload", params=NoParams, rule=Rule.ADMIN, handler=reload),
        Method(name="Daemon.self_test", params=NoParams, rule=Rule.SELF, handler=self_test),
        Method(name="Daemon.verify", params=NoParams, rule=Rule.ADMIN, handler=verify),
        Method(name="Daemon.version", params=NoParams, rule=Rule.ANYONE, handler=version),
    ]
