"""The API reference: an OpenAPI document made of the route table and of the YAML files beside this.

The rows say who may ask, where it is answered and how large a body may be; the files say what it is for and
what the bodies look like. Neither repeats the other.
"""
