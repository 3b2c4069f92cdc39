"""The table of routes as a running HAProxy has it: what a controller that comes back begins with."""

from shipway.platform.router.haproxy_options import NETWORKS, OPTIONS, PAGES, owner
from shipway.platform.router.haproxy_slots import APPS, HOSTS, SERVERS, Backend, Slot, Table
from shipway.platform.router.haproxy_worker import Worker, takes_requests
from shipway.platform.router.routes import Server


def read_table(worker: Worker) -> Table:
    """The table as a running HAProxy has it."""
    table = Table(
        hosts=read_map(worker, HOSTS), apps=read_map(worker, APPS), labels=read_map(worker, SERVERS)
    )
    for host, app in table.hosts.items():
        table.hosts_of.setdefault(app, set()).add(host)
    for file in (OPTIONS, NETWORKS, PAGES):
        for key, value in read_map(worker, file).items():
            if app := owner(key):
                {OPTIONS: table.options, NETWORKS: table.networks, PAGES: table.pages}[file][
                    key
                ] = value
                table.keys_of.setdefault(app, set()).add((file, key))
    lines = worker.ask("show servers state").splitlines()
    columns = lines[1].removeprefix("# ").split()
    for line in lines[2:]:
        row = dict(zip(columns, line.split(), strict=False))
        if row.get("be_name", "").startswith("b"):
            _read_slot(table, row)
    for app, name in table.apps.items():
        if name in table.backends:
            table.backends[name].app = app
    for backend in table.backends.values():
        table.release(backend)
    return table


def _read_slot(table: Table, row: dict[str, str]) -> None:
    backend = table.backends.setdefault(row["be_name"], Backend(row["be_name"], []))
    slot = Slot(row["srv_name"])
    backend.slots.append(slot)
    ready = takes_requests(row["srv_admin_state"])
    label = table.labels.get(slot.name)
    # Ready without a label: started from files that lacked the last label. Somebody to be let go.
    if label or ready:
        name, _, server_id = (label or "unknown/0").partition("/")
        table.labels.setdefault(slot.name, "unknown/0")
        slot.server = Server(name, server_id, row["srv_addr"], int(row["srv_port"]))
        slot.ready = ready
        if not ready:
            table.draining[slot.name] = backend, slot


def read_map(worker: Worker, name: str) -> dict[str, str]:
    """A map as a running HAProxy has it; empty if it was started without that map."""
    rows = (line.split() for line in worker.ask(f"show map {name}").splitlines())
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0].startswith("0x")}
