"""Search spaces: a supernet with every candidate operation, and the discrete networks it can become."""
