"""Template filters over `gated_configs.wording`: the same words on page, API and command."""

from django import template

from gated_configs import wording

register = template.Library()
register.filter("seconds", wording.spoken_seconds)
register.filter("rough_seconds", wording.rough_seconds)
register.filter("clock", wording.clock)
register.filter("ordinal", wording.ordinal)
register.filter("gigabytes", wording.gigabytes)
register.filter("spoken_bytes", wording.spoken_bytes)
register.filter("kilohertz", wording.kilohertz)
register.filter("channel_word", wording.channel_word)
register.filter("plain_number", wording.plain_number)
