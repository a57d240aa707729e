"""Pure: no clock, no chance, no sockets, no logging of its own."""
