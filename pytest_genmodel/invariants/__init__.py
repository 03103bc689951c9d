"""The claims: what must hold, each a function in a registry that markers, the suite and users share."""
