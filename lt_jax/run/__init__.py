"""The command: flags, configs, which stages run, what they were made from."""
