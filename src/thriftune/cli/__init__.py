"""The command line: one thin file per verb, in the order of the flow."""
