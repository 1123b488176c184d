"""A trained model as a service over HTTP: one study a request, nothing of it kept.

`together` computes the studies of simultaneous requests in one batch; `upload` turns a request into what
`mmmed.api.Model` is asked; `guard` says who may ask, how much and how long; `app` puts them together, `run` serves it.
"""
