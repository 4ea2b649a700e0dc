"""RCP, the replication control protocol, without I/O: messages, and sessions as tables of transitions.

Comes in: messages of a ``Link`` and the time. Goes out: checked structs, messages to send, who is at fault when
something does not fit, and when to ping. It does not know what is in a payload, nor does it open a link.
"""
