"""What every implementation of a port must do: one suite each, for the fakes and the real parts alike."""
