"""The whole daemon over its real socket, on the simulated kernel."""
