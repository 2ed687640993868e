"""Who asks and who watches: the socket, its interface, the monitor."""
