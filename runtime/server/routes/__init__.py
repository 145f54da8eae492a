"""The routes, one file for those that belong together: request in, reply out."""
