"""All data sets that live below the data root, by the names that users give them."""

from bpgrad.data import cifar10, ilsvrc, imagenette, mnist, pretrained, proposals, voc

SOURCES = {
    source.name: source
    for source in (
        *(mnist.SOURCE, cifar10.SOURCE, cifar10.INITIAL_WEIGHTS),
        *(imagenette.IMAGENETTE, imagenette.IMAGENETTE_160, ilsvrc.SOURCE),
        *(voc.REDUCED, pretrained.SQUEEZENET),
        *(voc.WHOLE_2007, proposals.PUBLISHED, voc.WHOLE_2011, voc.WHOLE_2012),
        *pretrained.VGG16_SOURCES,
    )
}
