"""Val/rdy ports as models see them, for signals that are assigned only when they change.

PyMTL3 learns from the reset branch of a component what it drives; after a reset, the signals are assigned through the
objects that they have become by then, which saves looking them up.
"""

from collections import deque

from pymtl3 import *

LOW, HIGH = Bits1( 0 ), Bits1( 1 )

class ReadPort:
  """The signals of a MinionIfcRTL, and what is offered on it."""

  __slots__ = ( "begun", "busy", "queue", "ready", "req_msg", "req_rdy", "req_val", "resp_msg", "resp_rdy", "resp_val" )

  def __init__( self, ifc ):
    self.req_val,  self.req_rdy,  self.req_msg  = ifc.req.val,  ifc.req.rdy,  ifc.req.msg
    self.resp_val, self.resp_rdy, self.resp_msg = ifc.resp.val, ifc.resp.rdy, ifc.resp.msg
    self.ready = True        # a request would be taken
    # Of the scratchpad's ports alone:
    self.busy  = False       # the next cycle may differ from this one without a request
    self.begun = False       # queue[0] is offered
    self.queue = deque()     # rows to give

class WritePort:
  """The signals of a RecvIfcRTL."""

  __slots__ = ( "msg", "rdy", "ready", "val" )

  def __init__( self, ifc ):
    self.val, self.rdy, self.msg = ifc.val, ifc.rdy, ifc.msg
    self.ready = True

class Sender:
  """A val/rdy output that is assigned only when it changes; `val` here, `msg` in the component's `up_messages`."""

  def __init__( self, ifc ):
    self.ifc   = ifc
    self.on    = False
    self.msg   = None
    self.fresh = False           # the message is not at the port yet

  def offer( self, msg ):
    """What is offered in the next cycle; None: nothing."""
    if msg is None:
      if self.on:
        self.ifc.val <<= 0
        self.on = False
    else:
      if msg is not self.msg:
        self.fresh = True
      if not self.on:
        self.ifc.val <<= 1
        self.on = True
    self.msg = msg

  def arrives( self ):
    """The message, for the port."""
    self.fresh = False
    return self.msg

  def taken( self ):
    """Whether what is offered is taken in this cycle."""
    return self.on and bool( self.ifc.rdy )
