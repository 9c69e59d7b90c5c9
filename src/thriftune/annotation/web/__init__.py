"""The annotation page: a server for one study, and the page it serves."""
