"""From a finished recording to a claimed one: intake, dispatch, outcome."""
