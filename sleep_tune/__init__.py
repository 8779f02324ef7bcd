"""sleep-tune: do language models learn better when they sleep? Wake/sleep pretraining schedules on BabyLM data, searched and scored."""

__version__ = "0.1.0"
