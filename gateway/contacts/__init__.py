"""Who is behind a client: addresses, consent, quiet hours. Pure: the time is handed in.

addresses.py  what a client's record may hold as an address, and how it is written
consent.py    whether a message of a category may go through a channel
quiet.py      until when it must wait
"""

from gateway.contacts.addresses import is_email, normal
from gateway.contacts.consent import allowed, category_of
from gateway.contacts.quiet import quiet_until, zone

__all__ = ["allowed", "category_of", "is_email", "normal", "quiet_until", "zone"]
