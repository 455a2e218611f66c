"""The `slam-asr` command. Begin with command.py: a verb is a file or a folder here, imported when it is typed.
Imports every other folder; none imports it."""
