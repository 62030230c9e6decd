"""Memory hub, DRAM and scratchpad together: the memory system of the NPU.

`MemorySystem` connects three components and takes the hub of any level. `MemorySystemCL` is all of them in one block
without ports in between, which has the same cycles and takes a fraction of the time.
"""

from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MinionIfcRTL, RecvIfcRTL

from cl.memory.dram import Dram, DramCL
from cl.memory.scratchpad import FP32_WRITERS, SPAD_READERS, SPAD_WRITERS, Scratchpad, ScratchpadCL, SpadPorts
from cl.memory_hub import READ_CLIENTS, WRITE_CLIENTS, Hub, HubPorts, MemoryHubCL
from npu.arch.messages import mk_mem_read_req, mk_mem_write, mk_spad_write

class MemorySystem( Component ):
  """Hub, DRAM and scratchpad, each a component: takes the hub of any level.

  Ports
  -----
  read, write
    The hub's clients, in the order of READ_CLIENTS and WRITE_CLIENTS.
  spad_read, spad_write
    The scratchpad's ports, in the order of SPAD_READERS and SPAD_WRITERS.

  Parameters
  ----------
  dram
    uint8 [bytes], read and written in place.
  stall_seed
    None, or random stalls of DRAM and scratchpad.
  memory_hub
    The hub's class, or a function of cfg.
  """

  def construct( s, cfg, dram, stall_seed=None, memory_hub=MemoryHubCL ):
    d = cfg.derived
    BEAT, SPAD = mk_bits( d.beat_bits ), mk_bits( d.spad_addr_bits )

    # Interface

    s.read       = [ MinionIfcRTL( mk_mem_read_req( cfg ), BEAT ) for _ in READ_CLIENTS ]
    s.write      = [ RecvIfcRTL( mk_mem_write( cfg ) ) for _ in WRITE_CLIENTS ]
    s.spad_read  = [ MinionIfcRTL( SPAD, BEAT ) for _ in SPAD_READERS ]
    s.spad_write = [ RecvIfcRTL( mk_spad_write( cfg ) ) for _ in SPAD_WRITERS ]

    # Components

    s.memory_hub = memory_hub( cfg )
    s.memory     = DramCL( cfg, dram, stall_seed )
    s.scratchpad = ScratchpadCL( cfg, stall_seed=stall_seed )
    s.dram, s.spad = s.memory.dram, s.scratchpad.spad

    # Connections

    for outer, inner in ( ( s.read, s.memory_hub.read ), ( s.write, s.memory_hub.write ),
                          ( s.spad_read, s.scratchpad.read ), ( s.spad_write, s.scratchpad.write ) ):
      for a, b in zip( outer, inner, strict=True ):
        connect( a, b )
    s.memory_hub.mem    //= s.memory.mem
    s.memory_hub.mem_wr //= s.memory.mem_wr

  def line_trace( s ):
    return f"{s.memory_hub.line_trace()} {s.memory.line_trace()}"

class MemorySystemCL( Component ):
  """The same as `MemorySystem`, with the same cycles, in one block: the whole NPU is to be simulated fast."""

  def construct( s, cfg, dram, stall_seed=None ):
    d = cfg.derived
    BEAT, SPAD = mk_bits( d.beat_bits ), mk_bits( d.spad_addr_bits )
    n_reads, n_writes = len( READ_CLIENTS ), len( WRITE_CLIENTS )
    n_spad_reads, n_spad_writes = len( SPAD_READERS ), len( SPAD_WRITERS )

    # Interface

    s.read       = [ MinionIfcRTL( mk_mem_read_req( cfg ), BEAT ) for _ in range( n_reads ) ]
    s.write      = [ RecvIfcRTL( mk_mem_write( cfg ) ) for _ in range( n_writes ) ]
    s.spad_read  = [ MinionIfcRTL( SPAD, BEAT ) for _ in range( n_spad_reads ) ]
    s.spad_write = [ RecvIfcRTL( mk_spad_write( cfg ) ) for _ in range( n_spad_writes ) ]

    # State

    s.hub   = Hub( cfg )
    s.dram  = Dram( cfg, dram, stall_seed )
    s.spad  = Scratchpad( cfg, SPAD_READERS, SPAD_WRITERS, None, stall_seed, FP32_WRITERS )
    s.hub_ports = s.spad_ports = None
    s.active    = True      # whether hub or DRAM have something to do by themselves
    # State is plain Python, reached by another name: PyMTL3 takes what it reads through `s` for signals.
    me = s

    @update_ff
    def ff_tick():
      if s.reset:
        for i in range( n_reads ):
          s.read[i].req.rdy  <<= 1
          s.read[i].resp.val <<= 0
          s.read[i].resp.msg <<= 0
        for i in range( n_writes ):
          s.write[i].rdy <<= 1
        for i in range( n_spad_reads ):
          s.spad_read[i].req.rdy  <<= 1
          s.spad_read[i].resp.val <<= 0
          s.spad_read[i].resp.msg <<= 0
        for i in range( n_spad_writes ):
          s.spad_write[i].rdy <<= 1
        me.hub.reset()
        me.dram.reset()
        me.spad.reset()
        me.hub_ports  = HubPorts( me.hub, me.read, me.write )
        me.spad_ports = SpadPorts( me.spad, me.spad_read, me.spad_write )
        me.active     = True
      else:
        me.tick()

  def tick( s ):
    """One cycle; where nothing is under way and nobody asks, only the time passes."""
    spad_ports, hub_ports, dram = s.spad_ports, s.hub_ports, s.dram
    if spad_ports.active or spad_ports.wakes():
      spad_ports.tick()
    else:
      s.spad.now += 1
    if not ( s.active or hub_ports.wakes() ):
      dram.now += 1
      return
    hub     = s.hub
    request = hub.request() if dram.request_rdy and hub.offered is not None else None
    write   = hub.write() if dram.write_rdy else None
    gave    = dram.offers and len( hub.buffer ) < 2
    hub_ports.tick( request is not None, dram.queue[0][1] if gave else None, write is not None )
    dram.tick( request, gave, write )
    s.active = dram.active() or hub.active()

  def line_trace( s ):
    return ( f"{'|'.join( str( p.req ) for p in s.read )}({len( s.dram.queue )})"
             f"{'|'.join( str( p ) for p in s.write )}" )
