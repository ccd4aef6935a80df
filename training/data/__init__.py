"""A data folder read, cached, checked and cut into batches; VoiceBank+DEMAND and the demo corpus."""
