"""Sound files of strangers, turned into clips: `__main__` decodes one in a process of its own, `decoding` asks it to."""
