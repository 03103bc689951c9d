"""The command `genmodel`: checkpoints from a shell, with the plugin's core and the plugin's findings."""
