"""The commands of this package, a module per group; the command line finds what each lists as `COMMANDS`.

Importing a command module is quick: Ray, torch and matplotlib are imported by the command that needs them.
"""
