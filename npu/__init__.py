"""An open NPU that runs Qwen2: everything that the command line does, as Python.

    import npu

    with npu.Session( "tiny" ) as session:
      for piece in session.generate( "In the beginning", 32 ):
        print( piece, end="" )

The names are listed in `__init__.pyi` and imported when they are first used, so `import npu` costs nothing;
docs/python.md has an example of each.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub( __name__, __file__ )
