"""What the store in dictionaries does about people: templates, suppressions, the audit log."""

from msgspec.structs import replace

from gateway.commit_people import Audit, DropSuppressions, PutSuppressions, PutTemplate
from gateway.stores.memory_tables import Tables


def carry_out(tables: Tables, op: PutTemplate | PutSuppressions | DropSuppressions | Audit) -> None:
    if isinstance(op, PutTemplate):
        row = op.row
        tables.templates.put((row.name, row.version), row)
        tables.templates.drop((row.name, row.version - op.keep))
    elif isinstance(op, PutSuppressions):
        for one in op.rows:
            tables.suppressions.put(one.key, one)
    elif isinstance(op, DropSuppressions):
        for key in [key for key in tables.suppressions if _concerns(op, key)]:
            tables.suppressions.drop(key)
            op.count += 1
    else:
        id = max(tables.audit, default=0) + 1
        tables.audit.put(id, replace(op.entry, id=id))


def _concerns(op: DropSuppressions, key: tuple[str, str, str]) -> bool:
    address, channel, category = key
    return address == op.address and op.channel in {"", channel} and op.category in {"", category}
