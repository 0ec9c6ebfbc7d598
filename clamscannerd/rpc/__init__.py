"""A client's bytes become one authorised call. Everything here runs in the daemon; jsonrpc and names in clients too.

     socket -> server.py    accept, peer credentials, limits per uid
               wire.py      one stream: lines in, answers out, every time limit
               rounds.py, atonce.py   whose turn it is, and what need not wait for one
               jsonrpc.py   sans-IO: bytes <-> request, response, notification, batch; all input limits
               table.py     what a row of methods.py is; parameters by name or position become one typed value
               access.py    pure: peer, rule -> allowed or not
               names.py     bytes of a file name <-> their text on the wire
               methods.py   the table itself

Trust: nothing a client sends is believed but the kernel's word on its uid. Rejected: HTTP (no client here needs it, and
`nc -U` with `jq` must be enough), pjrpc (one bad member spoils a batch), passing fds from clients (a FUSE file would
freeze the daemon).
"""
