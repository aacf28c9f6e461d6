"""From run directories to scores, curves and tables with intervals: ``fpo-report``.

``runs`` reads what runs left behind, ``statistics`` estimates, ``tables`` and ``figures`` show, ``write`` puts it in
a directory. Needs the extra ``report``.
"""
