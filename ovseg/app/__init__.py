"""The page to work in: `ovseg app` asks, clicks, corrects and exports in a browser, by a server on this machine.

    guard       who may ask: host, origin, token; how large a request may be
    routes      what can be asked for, and the answers
    session     what is open: images, a run folder, the models that will be used
    worker      the one thread that owns the models; `labelling`, `naming` and `pointing` are its work
    edits       corrections, saved by `ovseg.run.corrections`
    page        the report's page with more in it

`make_app` gives the whole as an ASGI application, `serve` runs it. Needs the extra `app` (Starlette, uvicorn).
"""
