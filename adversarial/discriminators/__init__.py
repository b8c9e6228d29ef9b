"""Networks that tell real from generated sentences; `build` makes the configured one."""
