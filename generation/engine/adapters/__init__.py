"""LoRA adapters on a loaded checkpoint: read, fitted to the network, attached beside the base, proved.

The base network is never written to. Importing this package imports neither torch nor peft.
"""
