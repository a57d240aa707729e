"""Load for a gateway and its peers: processes of their own, a ledger in every run. README.md tells the rest."""
