"""SWIM with Lifeguard for liveness, scuttlebutt for state, as one state machine without input or output.

Events in, effects out, `now` and a seeded generator handed in. No clock, socket, await or logger.
"""
