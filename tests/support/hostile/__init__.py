"""Requests that nobody means well, as data: what is sent, and what has to come of it.

Each family is a module that gives `Vector`s; `play` sends them and says which did not end as they should.
"""
