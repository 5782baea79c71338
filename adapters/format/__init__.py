"""What an adapter's files tell, read without torch, peft or Django: names, shapes, config, fingerprint, verdict.

Usable on its own; everything in it refuses what it cannot read with a sentence.
"""
