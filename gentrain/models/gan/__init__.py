"""The GAN: generator and discriminator, their objective, their layers. Imports as models does."""
