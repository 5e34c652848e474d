"""The studies: experiments that are not a comparison of training runs, a module each.

A declaration with the key `study` names the module, which offers

    run(folder, *, seeds, overrides)    compute, and write the records into `folder`
    show(folder, figures, tables)       from these alone figures and tables; returns the text of
                                        the report's section, in Markdown
    evidence(folder)                    optional: tables for the checks of the claims, by name
    missing(folder, *, seeds, overrides, jobs)
                                        optional, of a study that is made of training runs: what is
                                        still to run, in lines; its `run` takes `jobs` too

`run` calls `experiments.engine.studies.write_meta` after the records: a folder with meta.json has
something to show. The other modules here are what several studies share.
"""
