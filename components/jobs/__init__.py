"""The bodies of the stages, outside Prefect: one plain function a stage, settings in, result pointers out."""
