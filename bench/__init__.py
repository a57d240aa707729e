"""Load for a gateway: a process of its own, a ledger in every run, figures of the whole server process."""
