"""Names of what can hold a machine without any rule; no rule may be called so."""

STARTING = 'starting'
NO_FRESH_IMAGE = 'no_fresh_image'
FROZEN = 'frozen'
BLINDED = 'blinded'
OPERATOR_STOP = 'operator_stop'
OPERATOR_RESET = 'operator_reset'
UNREADABLE_LATCHES = 'latch_file'

BLIND = (STARTING, NO_FRESH_IMAGE)
BUILT_IN = (*BLIND, FROZEN, BLINDED, OPERATOR_STOP, OPERATOR_RESET, UNREADABLE_LATCHES)
