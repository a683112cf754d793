"""The first-party plugins of robustnas: they use exactly the door that a stranger's plugins use."""
