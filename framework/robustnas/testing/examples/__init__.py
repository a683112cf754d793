"""An example of each kind of plugin, short and whole: what `robustnas plugins new` writes, by another name.

They are read as text; `Example` and `example` in them become the names that are asked for.
"""
